def register(host:
    pass
