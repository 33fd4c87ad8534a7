// The search over the settings: what does not hold all words of it is hidden, and a group with nothing left too.
(() => {
  'use strict'
  const hide = (element, hidden) => {
    if (hidden) element.dataset.unmatched = ''
    else delete element.dataset.unmatched
  }
  document.addEventListener('input', (event) => {
    if (!event.target.closest?.('#settings_search')) return
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean)
    const matches = (text) => words.every((word) => text.toLowerCase().includes(word))
    for (const group of document.querySelectorAll('.rp-settings-group')) {
      const heading = group.querySelector('h4')?.textContent || ''
      const settings = [...group.querySelectorAll('.rp-setting')]
      for (const setting of settings) {
        hide(setting, !matches(`${heading} ${setting.textContent} ${setting.id.replace('settings_', '').replaceAll('_', ' ')}`))
      }
      hide(group, settings.length > 0 && settings.every((setting) => 'unmatched' in setting.dataset))
    }
  })
})()
