"""From the command line to objects: keys are checked, and what a user can mend ends in one line."""
