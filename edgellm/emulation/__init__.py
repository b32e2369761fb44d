"""Emulated Arm CPUs: qemu, a system root per CPU model, and a counter of instructions."""
