"""What a program is worth: traced programs, their prices, and linear forms of many programs."""
