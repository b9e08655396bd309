"""iSCSI Extensions for RDMA in userspace: PDUs, login, the verbs seam, registration and the datamover."""
