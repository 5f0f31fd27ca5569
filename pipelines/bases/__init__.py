"""Where bases come from and go to: folders, single files, hub ids; what they are; how they are written."""
