"""`fab init DIR`: a repository of one's own for a fleet, beside the toolkit that pip installs."""
