"""Real Flower processes: the app that boards run, and a SuperLink with its nodes on this machine."""
