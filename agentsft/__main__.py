"""`python -m agentsft` and `accelerate launch -m agentsft`."""

from agentsft.cli.app import main

if __name__ == "__main__":
    main()
