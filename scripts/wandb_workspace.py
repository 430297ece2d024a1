"""Save a workspace for the runs of a project in Weights & Biases."""

from sae.commands.exits import run_command
from sae.commands.wandb_workspace import main

if __name__ == "__main__":
    run_command(main)
