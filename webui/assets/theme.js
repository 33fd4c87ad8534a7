// How the page looks. Light or dark as the owner chose, which comes with the page's first answer and is kept here so that
// the next visit begins in it; what a person chooses in the bar counts for more. An address that names a theme itself is
// left alone. Compact or roomy is each person's own.
(() => {
  'use strict'
  const OWNERS = 'reprise.theme', OWN = 'reprise.theme.own', DENSITY = 'reprise.density'
  const root = document.documentElement
  const kept = (key) => { try { return localStorage[key] || '' } catch (error) { return '' } }
  const keep = (key, value) => { try { localStorage[key] = value } catch (error) { /* it holds for this page */ } }

  function apply(theme) {
    if (!theme || new URLSearchParams(location.search).has('__theme') || !document.body) return
    const dark = theme === 'dark' || (theme === 'system' && matchMedia('(prefers-color-scheme: dark)').matches)
    document.body.classList.toggle('dark', dark)
    root.style.colorScheme = dark ? 'dark' : 'light'
  }

  const LOOK = {
    theme() {
      const next = document.body.classList.contains('dark') ? 'light' : 'dark'
      keep(OWN, next)
      apply(next)
    },
    density() {
      const compact = root.dataset.density !== 'compact'
      if (compact) root.dataset.density = 'compact'
      else delete root.dataset.density
      keep(DENSITY, compact ? 'compact' : '')
    },
  }
  document.addEventListener('click', (event) => LOOK[event.target.closest?.('.rp-look')?.dataset.look]?.())

  window.reprise = {
    ...window.reprise,
    theme: (theme) => {
      keep(OWNERS, theme)
      apply(kept(OWN) || theme)
    },
  }
  if (kept(DENSITY)) root.dataset.density = kept(DENSITY)
  apply(kept(OWN) || kept(OWNERS))
})()
