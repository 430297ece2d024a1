"""Published results, reproduced: experiments, figures, and claims with negative controls."""
