"""The sensor and the schedule that launch runs of watched studies."""
