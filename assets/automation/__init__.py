"""Jobs, and the sensors and schedules that launch them."""
