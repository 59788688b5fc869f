"""`make bench`: each figure beside a control of the same run, as a ratio. Asserts nothing: machines are noisy."""
