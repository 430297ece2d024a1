"""Charts and templates: the report of a run, the plot of a sweep."""
