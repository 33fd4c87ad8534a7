// What the style sheets of the workbench cannot know: where the bar has room for the tabs, and which tab is in view.
(() => {
  'use strict'
  const root = document.documentElement

  // Tabs stand between the name and the choices at the right, whatever an owner put there.
  function measure() {
    const brand = document.getElementById('rp_brand'), first = document.getElementById('checkpoint')
    if (!brand || !first) return
    root.style.setProperty('--rp-bar-left', `${Math.ceil(brand.getBoundingClientRect().right + 12)}px`)
    root.style.setProperty('--rp-bar-right', `${Math.ceil(innerWidth - first.getBoundingClientRect().left + 12)}px`)
    root.style.setProperty('--rp-quick', document.getElementById('rp_quick') ? '50px' : '0px')
  }

  // Whether the tab in view makes images.
  function look(tabs) {
    const shown = [...tabs.children].find((tab) => tab.matches('.tabitem') && tab.style.display !== 'none')
    if (shown) root.dataset.bench = shown.querySelector('.rp-bench') ? 'yes' : 'no'
  }

  const sizes = new ResizeObserver(measure)
  const found = new MutationObserver(() => {
    const tabs = document.getElementById('rp_tabs'), parts = [...document.querySelectorAll('#rp_header > *, #checkpoint')]
    if (!tabs || !parts.length) return
    found.disconnect()
    for (const part of parts) sizes.observe(part)
    addEventListener('resize', measure)
    measure()
    let planned = false
    new MutationObserver(() => {
      if (planned) return
      planned = true
      requestAnimationFrame(() => { planned = false; look(tabs) })
    }).observe(tabs, { subtree: true, childList: true, attributes: true, attributeFilter: ['style'] })
    look(tabs)
  })
  found.observe(root, { subtree: true, childList: true })
})()
