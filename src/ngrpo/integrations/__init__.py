"""The same objectives inside other people's engines; each module needs its engine, which is an extra to install."""
