"""Reports, tables and figures of run folders."""
