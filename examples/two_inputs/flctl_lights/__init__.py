"""An example of a task for flctl; see `flctl_lights.task`."""
