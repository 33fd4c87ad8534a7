// What scripts of extensions may rely on: fields of the forms, the prompts, and what happens on the page. extensions/README.md
// tells of it. Names are those of the HTTP API: get('txt2img', 'cfg_scale'), set('img2img', 'ext.softer.amount', 0.4).
(() => {
  'use strict'
  const NAMES = { negative_prompt: 'negative' }
  const listeners = { generate: [], result: [], image: [] }
  const last = {}

  // The input of a field; null while it is in a fold that is closed, for such fields are not on the page.
  function find(tab, name) {
    const shared = document.getElementById(name === 'checkpoint' ? name : `quick_${name}`)
    const id = name.startsWith('ext.') ? name.replace(/\./g, '_') : NAMES[name] || name.replace(/^mask_soft_/, 'soft_')
    const switches = document.getElementById(`${tab}_${id}_on`)
    const home = shared || switches || document.getElementById(`${tab}_${id}`)
    if (home?.querySelector('button.label-wrap')) return null // a fold, whose switch is not there yet
    return home?.querySelector('input[type=checkbox], textarea, input[type=number], input:not([type=range])') || null
  }

  function boxOf(tab, name) {
    const box = find(tab, name)
    if (!box) throw new Error(`the tab ${tab} shows no field ${name} now`)
    return box
  }

  // Open the folds of a tab until the field is there.
  async function reveal(tab, name) {
    for (const fold of document.querySelectorAll(`#${tab}_parameters button.label-wrap:not(.open)`)) {
      if (find(tab, name)) return
      fold.click()
      for (let turn = 0; turn < 8 && !find(tab, name); turn++) await new Promise((done) => setTimeout(done, 25))
    }
  }

  const isChoice = (box) => box.getAttribute('role') === 'combobox'

  // The value of a field as the page shows it: a boolean, a number or a text.
  function get(tab, name) {
    if (window.reprise.field.has(tab, name)) return window.reprise.field.get(tab, name)
    const box = boxOf(tab, name)
    if (box.type === 'checkbox') return box.checked
    return box.type === 'number' ? Number(box.value) : box.value
  }

  function write(box, value) {
    const home = box instanceof HTMLTextAreaElement ? HTMLTextAreaElement : HTMLInputElement
    Object.getOwnPropertyDescriptor(home.prototype, 'value').set.call(box, String(value))
    box.dispatchEvent(new Event('input', { bubbles: true }))
  }

  function enter(box, value) {
    if (box.type === 'checkbox') {
      if (box.checked !== Boolean(value)) box.click()
    } else {
      write(box, value)
      box.dispatchEvent(new Event('change', { bubbles: true }))
      box.dispatchEvent(new Event('blur', { bubbles: true }))
    }
  }

  // Give a field a value; the form has it when the promise is kept, true, or false where there is no such choice. A field
  // that a fold has just shown may be drawn once more on a busy page, as it was before: then it is entered again.
  async function set(tab, name, value) {
    const { field } = window.reprise
    if (field.has(tab, name)) return field.enter(tab, name, value)
    if (!find(tab, name)) await reveal(tab, name)
    if (isChoice(boxOf(tab, name))) return choose(boxOf(tab, name), String(value))
    const before = get(tab, name)
    const same = typeof before === 'boolean' ? before === Boolean(value) : String(before) === String(value)
    for (let turn = 0; turn < 20; turn++) {
      enter(boxOf(tab, name), value)
      await new Promise((done) => setTimeout(done, 25))
      if (same || get(tab, name) !== before) return true
    }
    return false
  }

  // What `found` finds, once it finds something; null after so many milliseconds of a busy page.
  async function until(found, most) {
    for (let waited = 0; waited < most; waited += 25) {
      const it = found()
      if (it) return it
      await new Promise((done) => setTimeout(done, 25))
    }
    return null
  }

  async function choose(box, value) {
    if (box.value === value) return true
    box.focus()
    write(box, value)
    const options = () => [...document.querySelectorAll('ul[role=listbox] [role=option]')]
    await until(() => options().length, 5000)
    const option = options().find((one) => one.dataset.value === value || one.getAttribute('aria-label') === value)
    if (!option) {
      box.blur()
      return false
    }
    option.dispatchEvent(new MouseEvent('mousedown', { bubbles: true, cancelable: true }))
    return Boolean(await until(() => box.value === value && document.activeElement !== box, 5000))
  }

  // Put a text into the prompt where the cursor was last, set apart from its neighbours by a comma; it can be undone.
  function insert(text, { tab = 'txt2img', negative = false } = {}) {
    const box = boxOf(tab, negative ? 'negative_prompt' : 'prompt')
    const start = last[box.closest('[id]')?.id] ? box.selectionStart : box.value.length
    const end = last[box.closest('[id]')?.id] ? box.selectionEnd : box.value.length
    const before = box.value.slice(0, start), after = box.value.slice(end)
    const left = before === '' || /[\s([{|:]$/.test(before) ? '' : /,$/.test(before) ? ' ' : ', '
    const right = /^\s*[^\s,)\]}|:]/.test(after) ? (/^\s/.test(after) ? ',' : ', ') : ''
    replace(box, start, end, left + text + right)
  }

  // Replace a part of a text box as if it were typed.
  function replace(box, start, end, text) {
    box.focus()
    box.setSelectionRange(start, end)
    if (document.execCommand(text ? 'insertText' : 'delete', false, text)) return
    box.setRangeText(text, start, end, 'end')
    box.dispatchEvent(new Event('input', { bubbles: true }))
  }

  document.addEventListener('focusin', (event) => {
    const home = event.target.matches?.('textarea') && event.target.closest('[id]')
    if (home) last[home.id] = true
  })

  // 'generate': { tab } · 'result': { tab, job, infotext } · 'image': { tab, job, index, infotext }. Gives what ends it.
  function on(what, listener) {
    if (!listeners[what]) throw new Error(`there is nothing called ${what}; there are ${Object.keys(listeners).join(', ')}`)
    listeners[what].push(listener)
    return () => { listeners[what] = listeners[what].filter((one) => one !== listener) }
  }

  // A listener's fault is its own.
  function tell(what, facts) {
    for (const listener of listeners[what]) {
      try { listener(facts) } catch (error) { console.warn('an extension failed:', error) }
    }
  }

  document.addEventListener('click', (event) => {
    const button = event.target.closest?.('button[id$="_generate"]')
    if (button) tell('generate', { tab: button.id.replace(/_generate$/, '') })
  }, true)

  // Pages of cards.
  document.addEventListener('click', (event) => {
    const card = event.target.closest?.('.rp-ext-cards button[data-insert]')
    if (card) insert(card.dataset.insert, { tab: card.closest('[id*="_cards_"]').id.split('_cards_')[0] })
  })

  document.addEventListener('input', (event) => {
    if (!event.target.matches?.('.rp-ext-cards input')) return
    const wanted = event.target.value.trim().toLowerCase()
    for (const card of event.target.parentElement.querySelectorAll('[data-name]')) card.hidden = !card.dataset.name.includes(wanted)
  })

  window.reprise = Object.assign(window.reprise || {}, { get, set, insert, replace, on, tell, until })
})()
