// The page in the reader's language: webui/i18n.py says how. English texts are replaced as they come onto the page, before
// they are painted; what a person wrote is left alone, and so is what stands in translate="no".
(() => {
  'use strict'
  const ATTRIBUTES = ['title', 'aria-label', 'placeholder', 'alt']
  const KEPT = 'script, style, textarea, [contenteditable], [translate="no"], [role="option"], option'
  const PLACE = /\{(\w+)\}/g
  const LINE = ' · ', HINT = '; '

  function wanted() {
    const known = (document.querySelector('meta[name="rp-languages"]')?.content || '').split(' ')
    for (const tag of navigator.languages) {
      const language = tag.split('-')[0].toLowerCase()
      if (language === 'en') return null
      if (known.includes(language)) return language
    }
    return null
  }

  function catalogue(entries) {
    const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
    const bare = (key) => key.replace(PLACE, '').length
    const patterns = Object.keys(entries).filter((key) => key.search(PLACE) >= 0).sort((a, b) => bare(b) - bare(a)).map((key) => {
      const parts = key.split(PLACE).map((part, i) => (i % 2 ? `(?<${part}>.+?)` : escaped(part)))
      return [new RegExp(`^${parts.join('')}$`, 's'), entries[key]]
    })
    const has = (key) => Object.hasOwn(entries, key)

    function find(text) {
      if (!text) return null
      for (const same of [text, text[0].toLowerCase() + text.slice(1), text[0].toUpperCase() + text.slice(1)]) {
        if (has(same)) return entries[same]
      }
      if (text.includes(LINE)) return parts(text, LINE)
      for (const [pattern, meaning] of patterns) {
        const found = pattern.exec(text)
        if (found) return meaning.replace(PLACE, (_, name) => find(found.groups[name]) ?? found.groups[name])
      }
      return parts(text, HINT)
    }

    function parts(text, joint) {
      const given = text.split(joint)
      const told = given.length > 1 ? given.map(find) : []
      return told.some(Boolean) ? told.map((part, i) => part ?? given[i]).join(joint) : null
    }
    return find
  }

  // A text as it is looked up, without the blanks around it, which stay.
  function put(text, find, write) {
    const bare = text.trim().replace(/\s+/g, ' ')
    const told = /[a-z]/i.test(bare) ? find(bare) : null
    if (told !== null && told !== bare) write(/^\s*/.exec(text)[0] + told + /\s*$/.exec(text)[0])
  }

  const texts = (node, find) => {
    if (!node.parentElement?.closest(KEPT)) put(node.nodeValue, find, (told) => { node.nodeValue = told })
  }

  function attributes(element, find, names = ATTRIBUTES) {
    if (element.closest('[translate="no"]')) return
    for (const name of names) {
      const text = element.getAttribute(name)
      if (text) put(text, find, (told) => element.setAttribute(name, told))
    }
  }

  // The choices of a select where all are words; names of models and samplers stay as they are. Values are English always.
  function choices(select, find) {
    if (select.closest('[translate="no"]')) return
    const told = [...select.options].map((one) => find(one.textContent.trim()))
    if (told.length && told.every((text) => text !== null)) [...select.options].forEach((one, i) => { one.textContent = told[i] })
  }

  function everything(root, find) {
    if (root.nodeType === Node.TEXT_NODE) return texts(root, find)
    if (root.nodeType !== Node.ELEMENT_NODE) return
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT)
    while (walker.nextNode()) texts(walker.currentNode, find)
    attributes(root, find)
    for (const select of root.querySelectorAll('select')) choices(select, find)
    for (const element of root.querySelectorAll(ATTRIBUTES.map((name) => `[${name}]`).join())) attributes(element, find)
  }

  async function translate(language) {
    const answer = await fetch(`locales/${language}.json`)
    if (!answer.ok) return
    const find = catalogue(await answer.json())
    const root = document.documentElement
    new MutationObserver((changes) => {
      for (const change of changes) {
        if (change.type === 'characterData') texts(change.target, find)
        else if (change.type === 'attributes') attributes(change.target, find, [change.attributeName])
        else change.addedNodes.forEach((node) => everything(node, find))
      }
    }).observe(root, { subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ATTRIBUTES })
    everything(root, find)
    root.lang = language
    // Gradio writes the browser's own tag there when it comes to it.
    const keep = () => { if (root.lang !== language) root.lang = language }
    new MutationObserver(keep).observe(root, { attributes: true, attributeFilter: ['lang'] })
    root.dataset.translated = language
  }

  const language = wanted()
  if (language) translate(language)
})()
