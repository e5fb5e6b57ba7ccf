"""The demo data set and encoder that ship with the project, and the programs that generate them."""
