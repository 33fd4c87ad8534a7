def register(host):
    host.add_asset("bad.js")
