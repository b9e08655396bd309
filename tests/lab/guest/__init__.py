"""The guest's side: the initramfs' program, the set-up and the agent."""
