"""macOS: its tools run with limits, its output parsed, files and directories where others may write."""
