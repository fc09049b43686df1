"""Tables and pages for people, data for machines."""
