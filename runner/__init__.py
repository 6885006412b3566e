"""The sealed side: what runs in the zygote, in a runner and in a compiler. Imports nothing from `worker`."""
