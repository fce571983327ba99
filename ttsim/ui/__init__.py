"""What people see: command lines, aligned text, progress, plots and charts."""
