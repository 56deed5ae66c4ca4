"""``python -m runway_pipelines.cli``: for whoever starts it with an interpreter of their choice."""

from runway_pipelines.cli import main

if __name__ == "__main__":
    main()
