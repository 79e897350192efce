"""What the measures of several papers share."""
