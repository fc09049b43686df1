"""Print the table of stand-ins anew: python -m ds4fleet.lab.weights > ds4fleet/lab/weights/table.json."""

from ds4fleet.lab.weights import table_text

if __name__ == "__main__":
    print(table_text(), end="")
