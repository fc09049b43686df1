"""The verbs of `fab`, one file each."""
