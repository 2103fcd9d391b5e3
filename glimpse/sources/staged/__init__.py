"""Images that are read from a copy on a local disk: those of slow or shared disks, and those of other machines."""
