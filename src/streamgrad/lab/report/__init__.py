"""Pictures and reports of what was run. Matplotlib is imported where it draws."""
