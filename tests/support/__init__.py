"""What the tests stand on: guards, a fake clock, the emulator, real servers."""
