// Each tab has an address, #img2img, so that Back and Forward go from tab to tab and a link leads to one.
(() => {
  'use strict'
  const buttonOf = (name) => name && document.getElementById(`tab_${name}-button`)
  const named = () => decodeURIComponent(location.hash.slice(1))
  const shown = () => document.querySelector('#rp_tabs > .tab-wrapper [role=tab][aria-selected="true"]')?.id.replace(/^tab_|-button$/g, '')
  let begun = false

  function follow() {
    const name = named() || 'txt2img'
    if (name !== shown()) buttonOf(name)?.click()
  }

  // Whoever shows a tab, a click or an answer of the server, the address says so.
  function watch(list) {
    new MutationObserver(() => {
      const name = shown()
      if (begun && name && name !== (named() || 'txt2img')) history.pushState(null, '', `#${name}`)
    }).observe(list, { subtree: true, attributes: true, attributeFilter: ['aria-selected'] })
  }

  async function begin() {
    const list = await window.reprise.until(() => document.querySelector('#rp_tabs > .tab-wrapper [role=tab]')?.closest('.tab-wrapper'), 60000)
    if (!list) return
    watch(list)
    follow()
    begun = true
  }

  addEventListener('popstate', follow)
  begin()
})()
