"""Published methods, one complete file each, as a user of the library would write them."""
