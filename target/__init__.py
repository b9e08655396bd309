"""A userspace iSER target: portals, sessions, a SCSI device server and its backends."""
