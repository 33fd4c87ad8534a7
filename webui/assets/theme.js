// Light or dark where the owner chose one. The choice comes with the page's first answer and is kept here, so that the
// next visit begins in it. An address that names a theme itself is left alone.
(() => {
  'use strict'
  const KEY = 'reprise.theme'

  function apply(theme) {
    if (!theme || new URLSearchParams(location.search).has('__theme') || !document.body) return
    const dark = theme === 'dark' || (theme === 'system' && matchMedia('(prefers-color-scheme: dark)').matches)
    document.body.classList.toggle('dark', dark)
    document.documentElement.style.colorScheme = dark ? 'dark' : 'light'
  }

  window.reprise = {
    ...window.reprise,
    theme: (theme) => {
      try { localStorage[KEY] = theme } catch (error) { /* it comes again with the next page */ }
      apply(theme)
    },
  }
  try { apply(localStorage[KEY]) } catch (error) { /* as the system has it, until the answer */ }
})()
