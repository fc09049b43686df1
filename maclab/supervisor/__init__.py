"""The supervisor of a lab: process 1 of the namespaces in which all of it runs."""
