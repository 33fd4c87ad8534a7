// The bar: tabs stand between the name and the choices at its right, whatever an owner put there.
(() => {
  'use strict'
  const root = document.documentElement.style

  function measure() {
    const bar = document.getElementById('rp_header'), brand = document.getElementById('rp_brand')
    const first = document.getElementById('checkpoint')
    if (!bar || !brand || !first) return
    root.setProperty('--rp-bar-left', `${Math.ceil(brand.getBoundingClientRect().right + 12)}px`)
    root.setProperty('--rp-bar-right', `${Math.ceil(innerWidth - first.getBoundingClientRect().left + 12)}px`)
  }

  const sizes = new ResizeObserver(measure)
  const found = new MutationObserver(() => {
    const parts = [...document.querySelectorAll('#rp_header > *, #checkpoint')]
    if (!parts.length) return
    found.disconnect()
    for (const part of parts) sizes.observe(part)
    addEventListener('resize', measure)
    measure()
  })
  found.observe(document.documentElement, { subtree: true, childList: true })
})()
