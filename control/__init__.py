"""control: the process that decides. It never touches a tensor and never imports torch."""
