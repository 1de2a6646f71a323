"""A process of the command line's own: `agentsft`, `python -m agentsft` and `accelerate launch -m agentsft`."""

from agentsft.cli import app
from agentsft.encode import torchless


def main() -> None:
    torchless.own_process = True
    app.main()


if __name__ == "__main__":
    main()
