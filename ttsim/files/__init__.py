"""Files from outside and files for people: bounded reading, careful writing, and ending cleanly on a signal."""
