"""The rows of a data set, in columns, and the parts that its splits follow from."""
