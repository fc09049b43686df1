"""Write docs/lab-faults.md anew: python -m maclab.faults."""

from maclab.faults import DOCUMENT, document

DOCUMENT.write_text(document())
