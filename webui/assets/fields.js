// The controls of a tab that are the page's own: their values, their folds, and what the buttons beside them do.
// webui/fields.py says how values go to the server and back. A tab that was not yet looked at has no controls on the page;
// its values are kept all the same.
(() => {
  'use strict'
  const LEAST = 64, MOST = 2048, GRID = 8, LATE_MS = 100
  const forms = {}, kept = {}
  let number = 0

  const boxOf = (id) => document.querySelector(`#${id} textarea, #${id} input`)
  const tabOf = (element) => element.closest('[data-fields]')?.dataset.fields
  const controlsOf = (tab, name) => document.querySelectorAll(`[data-fields="${tab}"] [data-name="${CSS.escape(name)}"]`)

  // The form of a tab; null as long as the page is not complete.
  function formOf(tab) {
    const box = tab && boxOf(`${tab}_fields`)
    if (!box || !box.value) return null
    if (!forms[tab]) {
      const values = JSON.parse(box.value)
      forms[tab] = { values, defaults: { ...values }, choices: {}, planned: false }
    }
    return forms[tab]
  }

  // Values go to the server's page as one text, once a turn; before a click in any case.
  function plan(tab) {
    const form = forms[tab]
    if (form.planned) return
    form.planned = true
    setTimeout(() => flush(tab), 0)
  }

  function flush(tab) {
    const form = forms[tab], box = boxOf(`${tab}_fields`)
    if (!form?.planned || !box) return
    form.planned = false
    type(box, JSON.stringify(form.values))
  }

  function type(box, text) {
    const home = box instanceof HTMLTextAreaElement ? HTMLTextAreaElement : HTMLInputElement
    Object.getOwnPropertyDescriptor(home.prototype, 'value').set.call(box, text)
    box.dispatchEvent(new Event('input', { bubbles: true }))
  }

  addEventListener('click', () => Object.keys(forms).forEach(flush), true)

  function ask(tab, wish, more = {}) {
    flush(tab)
    type(boxOf(`${tab}_ask`), JSON.stringify({ ...more, wish, n: ++number }))
  }

  // What a control holds, and what it is given.
  function read(control) {
    const kind = control.closest('.rp-field').dataset.kind
    if (kind === 'bool') return control.checked
    return kind !== 'number' ? control.value : control.value === '' || control.validity.badInput ? null : Number(control.value)
  }

  function show(control, value) {
    const home = control.closest('.rp-field'), track = home.querySelector('input[type=range]')
    if (control.type === 'checkbox') control.checked = Boolean(value)
    else {
      const text = value === null || value === undefined ? '' : String(value)
      if (control.tagName === 'SELECT' && text && ![...control.options].some((one) => one.value === text)) control.add(new Option(text, text))
      if (control.value !== text) control.value = text
    }
    if (track) slide(track, value)
  }

  function slide(track, value) {
    if (value !== null && value !== undefined) track.value = value
    const share = (track.value - track.min) / (track.max - track.min || 1)
    track.style.setProperty('--share', `${Math.min(Math.max(share, 0), 1) * 100}%`)
  }

  function list(control, choices) {
    const words = new Map([...control.options].map((one) => [one.value, one.textContent]))
    control.replaceChildren(...choices.map((one) => new Option(words.get(one) || one, one)))
  }

  const same = (a, b) => a === b || (a ?? '') === (b ?? '') || (a !== '' && b !== '' && Number(a) === Number(b))

  // Set a value, on the page too; `by` is the control where a person has done so.
  function put(tab, name, value, by) {
    const form = formOf(tab)
    if (!form || !(name in form.values)) return false
    const before = form.values[name]
    form.values[name] = value
    for (const control of controlsOf(tab, name)) if (control !== by) show(control, value)
    plan(tab)
    effects(tab, name, value)
    if (before !== value) document.dispatchEvent(new CustomEvent('reprise:form', { detail: tab }))
    return true
  }

  function effects(tab, name, value) {
    const pictures = [...controlsOf(tab, name)].filter((one) => one.closest('.rp-is-picture'))
    if (pictures.length) look(tab, [name])
    if (name === 'script') document.documentElement.setAttribute(`data-script-${tab}`, value)
    for (const control of controlsOf(tab, name)) {
      for (let fold = control.closest('.rp-fold'); fold; fold = fold.parentElement.closest('.rp-fold')) tell(tab, fold)
    }
    const follows = [...document.querySelectorAll(`[data-fields="${tab}"] [data-follow]`)]
    if (follows.some((one) => one.dataset.follow.split(' ').includes(name))) ask(tab, 'follow')
  }

  // What in a fold differs from what it began with stands in its header; a click takes one back.
  function tell(tab, fold) {
    const form = formOf(tab), place = fold.querySelector(':scope > .rp-changed')
    if (!form || !place) return
    const own = [...fold.querySelectorAll(':scope > .rp-fold-body [data-name]')]
    const changed = own.filter((one) => !same(form.values[one.dataset.name], form.defaults[one.dataset.name]))
    place.replaceChildren(...changed.map((control) => {
      const name = control.dataset.name, value = form.values[name]
      const label = control.closest('.rp-field').querySelector('label')?.textContent.trim() || name
      const said = typeof value === 'boolean' || control.type === 'hidden' ? label : `${label} ${value ?? ''}`
      const chip = Object.assign(document.createElement('button'), { type: 'button', textContent: said.length > 22 ? `${said.slice(0, 21)}…` : said })
      chip.title = said
      chip.setAttribute('aria-label', `Take back: ${said}`)
      chip.addEventListener('click', () => put(tab, name, form.defaults[name]))
      return chip
    }))
    fold.classList.toggle('rp-on', Boolean(fold.querySelector(':scope > .rp-switch input:checked')))
  }

  // Controls that have just come onto the page: they get what their form holds by now.
  function fill(panel) {
    const tab = panel.querySelector('[data-fields]')?.dataset.fields, form = formOf(tab)
    if (!form) return setTimeout(() => panel.isConnected && fill(panel), LATE_MS)
    for (const control of panel.querySelectorAll('[data-name]')) {
      const name = control.dataset.name
      if (form.choices[name]) list(control, form.choices[name])
      if (!same(read(control), form.values[name])) show(control, form.values[name])
    }
    for (const track of panel.querySelectorAll('input[type=range]')) slide(track)
    look(tab, [...panel.querySelectorAll('.rp-is-picture [data-name]')].map((one) => one.dataset.name).filter((name) => form.values[name]))
    for (const fold of panel.querySelectorAll('.rp-fold')) tell(tab, fold)
    if ('script' in form.values) document.documentElement.setAttribute(`data-script-${tab}`, form.values.script)
  }

  document.addEventListener('reprise:panel', (event) => fill(event.detail))

  // What the server gives: values and choices by name.
  function given(tab, text) {
    const form = formOf(tab)
    if (!form || !text) return
    const { values, choices, looks = {} } = JSON.parse(text)
    for (const [name, html] of Object.entries(looks)) {
      for (const control of controlsOf(tab, name)) picture(control.closest('.rp-is-picture'), html, '')
    }
    for (const [name, names] of Object.entries(choices)) {
      form.choices[name] = names
      for (const control of controlsOf(tab, name)) {
        list(control, names)
        show(control, form.values[name])
      }
    }
    for (const [name, value] of Object.entries(values)) put(tab, name, value)
    flush(tab)
  }

  // Pictures: stored at once; the control holds the name, and a small copy of what it names is shown.
  function look(tab, names) {
    if (names.length) ask(tab, 'look', { names })
  }

  function picture(home, html, said) {
    const stored = home.querySelector('.rp-picture-stored')
    stored.innerHTML = html
    home.querySelector('.rp-picture-said').textContent = said || (html ? '' : home.querySelector('input[type=file]').getAttribute('aria-label').split(': ').pop())
    home.querySelector('[data-act=forget]').hidden = !html
  }

  async function store(home, file) {
    const control = home.querySelector('[data-name]'), tab = tabOf(home), body = new FormData()
    body.append('image', file)
    try {
      const answer = await fetch('api/v1/inputs', { method: 'POST', body })
      const told = await answer.json()
      if (!answer.ok) return picture(home, '', told.detail || 'The picture cannot be read')
      put(tab, control.dataset.name, told.key)
    } catch (error) { picture(home, '', 'The server does not answer') }
  }

  document.addEventListener('change', (event) => {
    const home = event.target.type === 'file' && event.target.closest('.rp-is-picture')
    if (home && event.target.files[0]) store(home, event.target.files[0])
  })
  for (const kind of ['dragover', 'drop']) {
    document.addEventListener(kind, (event) => {
      const home = event.target.closest?.('.rp-is-picture')
      if (!home || ![...event.dataTransfer.items].some((one) => one.kind === 'file')) return
      event.preventDefault()
      event.stopPropagation()
      if (kind === 'drop') store(home, event.dataTransfer.files[0])
    }, true)
  }

  // What a person does.
  function entered(event) {
    const control = event.target, home = control.closest?.('.rp-field')
    if (!home || control.type === 'file') return
    const tab = tabOf(home), box = home.querySelector('[data-name]')
    if (control.type === 'range') box.value = control.value
    const value = read(box)
    if (!put(tab, box.dataset.name, value, box)) return
    const track = home.querySelector('input[type=range]')
    if (track) slide(track, value)
    if (box.getAttribute('role') === 'switch' && value) fold(home.closest('.rp-fold'), true)
    follow(tab, box.dataset.name, value)
  }

  document.addEventListener('input', entered)
  document.addEventListener('change', (event) => {
    // Browsers tell a choice and a tick by both; a number that was typed is put on the slider's ends by neither.
    if (event.target.closest?.('.rp-field') && event.target.tagName === 'SELECT') entered(event)
  })

  function fold(home, open) {
    const header = home.querySelector(':scope > button'), body = home.querySelector(':scope > .rp-fold-body')
    header.classList.toggle('open', open)
    header.setAttribute('aria-expanded', String(open))
    body.hidden = !open
  }

  // Sizes: a shape of the same area, and the shape that is kept while one side is changed.
  const onGrid = (side) => Math.min(Math.max(Math.round(side / GRID) * GRID, LEAST), MOST)

  function follow(tab, name, value) {
    if (!(tab in kept) || !value || (name !== 'width' && name !== 'height')) return
    if (name === 'width') put(tab, 'height', onGrid(value / kept[tab]))
    else put(tab, 'width', onGrid(value * kept[tab]))
  }

  const DO = {
    swap(tab, { width, height }) {
      put(tab, 'width', height)
      put(tab, 'height', width)
      if (tab in kept) kept[tab] = 1 / kept[tab]
    },
    shape(tab, { width, height }, shape) {
      const [across, down] = shape.split(':').map(Number)
      if (tab in kept) kept[tab] = across / down
      put(tab, 'width', onGrid(Math.sqrt(width * height * across / down)))
      put(tab, 'height', onGrid(Math.sqrt(width * height * down / across)))
    },
    keep(tab, { width, height }, _, button) {
      if (button.checked) kept[tab] = width / height
      else delete kept[tab]
    },
    native: (tab, _, name) => ask(tab, 'native', { name }),
    seed: (tab) => put(tab, 'seed', '-1'),
    reuse: (tab) => ask(tab, 'reuse'),
    forget(tab, _, __, button) {
      const home = button.closest('.rp-is-picture')
      home.querySelector('input[type=file]').value = ''
      put(tab, home.querySelector('[data-name]').dataset.name, '')
    },
  }

  document.addEventListener('click', (event) => {
    const send = event.target.closest?.('[data-send]')
    if (send) {
      const [source, target] = send.dataset.send.split(' ')
      return type(boxOf(`${source}_send`), `${target} ${++number}`)
    }
    const header = event.target.closest?.('.rp-fold > button')
    if (header) return fold(header.parentElement, !header.classList.contains('open'))
    const button = event.target.closest?.('[data-act]'), tab = button && tabOf(button)
    const [word, ...rest] = button?.dataset.act.split(' ') || []
    if (tab && DO[word] && formOf(tab)) DO[word](tab, formOf(tab).values, rest.join(' '), button)
  })

  // Enter a value for a script: false where there is no such choice, as far as the choices are known.
  function enter(tab, name, value) {
    const control = controlsOf(tab, name)[0], before = formOf(tab).values[name]
    if (control?.tagName === 'SELECT' && ![...control.options].some((one) => one.value === String(value))) return false
    return put(tab, name, typeof before === 'boolean' ? Boolean(value) : typeof before === 'number' ? Number(value) : String(value))
  }

  window.reprise = { ...window.reprise, given, field: { has: (tab, name) => name in (formOf(tab)?.values || {}), get: (tab, name) => formOf(tab).values[name], enter } }
})()
