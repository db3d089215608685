"""Methods that share a small model beside the private one."""
