"""What the machine is: chips, constants with their sources, the state of the software at a date."""
