"""From one version that serves to another and back, over crashes and power cuts; draining before a stop."""
