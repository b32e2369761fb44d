"""What runs on a device and is compiled or downloaded here: packages for other machines, and the native runner."""
