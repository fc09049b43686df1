"""Print the table of stand-ins anew: python -m maclab.weights > maclab/weights/table.json."""

from maclab.weights import table_text

if __name__ == "__main__":
    print(table_text(), end="")
