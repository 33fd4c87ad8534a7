raise RuntimeError("<b>it cannot be imported</b>")
