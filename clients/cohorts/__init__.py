"""The cohort executor: many clients of one network trained at once."""
