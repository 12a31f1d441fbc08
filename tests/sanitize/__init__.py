"""The CPU kernels and the operators under AddressSanitizer and UndefinedBehaviorSanitizer."""
